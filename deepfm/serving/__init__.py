"""A trained model behind HTTP: a supervisor, its workers, and what a worker does with a request."""
