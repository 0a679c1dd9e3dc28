"""What finished moves say: chosen, added up by week, drawn, and told as pages."""
