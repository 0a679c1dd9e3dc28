"""The controller's dashboard on Litestar: who is signed in, what he is shown, what he may order, and what is new."""
