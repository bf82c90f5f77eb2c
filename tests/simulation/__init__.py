"""The deterministic simulation: clients, workers and a fleet against the service, the network, the disk and time."""
