"""Many runs: plan, workers, engines and the live table."""
