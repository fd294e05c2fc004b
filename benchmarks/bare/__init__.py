"""The protocol's round trips with nothing around them: no engine, no middleware, no logging, no error path."""
