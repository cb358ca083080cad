"""The messages of TensorFlow Serving's gRPC API and of its configuration files, compatible on the wire and in text."""
