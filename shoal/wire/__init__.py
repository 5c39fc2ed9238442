"""Floor 2½: what travels: frames, the hello that opens every connection, typed messages, the control-plane .proto."""
