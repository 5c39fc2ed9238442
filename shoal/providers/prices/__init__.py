"""What machines cost: dated tables shipped with Shoal, a cache the user refreshes, and the YAML above both."""
