"""What every part builds on and that knows no other part: random streams, threads and memory, compiled code, messages."""
