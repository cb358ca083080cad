"""One worker of the cluster: it loads TensorFlow models and answers which label an image deserves."""
