"""The judge beside its rivals on simulated traffic: how often a healthy version is rolled back, how fast a bad one is seen."""
