"""What every process and every user of the cluster shares; it installs alone, without a server."""

from muster.errors import ClusterError
from muster.values import Snapshot, Worker

__all__ = ["ClusterError", "Snapshot", "Worker", "__version__"]
__version__ = "0.1.0"
