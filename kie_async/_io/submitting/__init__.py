"""From a request to a taskId: checked, journaled, admitted, and sent once."""
