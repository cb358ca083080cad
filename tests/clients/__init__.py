"""Clients as users of TensorFlow Serving have them; they know nothing of this project."""
