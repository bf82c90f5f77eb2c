"""The floor that decides: values and instants in, values and instants out. Nothing here waits or knows a clock."""
