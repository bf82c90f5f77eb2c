"""``KieClient.map()``: rows in, each seen through, outcomes out."""
