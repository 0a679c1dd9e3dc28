"""What pages show: from what the API says to words, addresses and figures. Pure: no request, no database."""
