"""The models of the endpoint: their fields, rules and prices."""
