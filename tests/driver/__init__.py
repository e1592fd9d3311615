"""What the tests of the driver share: a group of replicas, and a town of whole nodes, in one process."""
