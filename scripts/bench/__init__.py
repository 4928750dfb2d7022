"""`make bench`: what an apply costs, as ratios measured in one run."""
