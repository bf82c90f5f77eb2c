"""From a request to a taskId: taken in, written down, admitted, sent once."""
