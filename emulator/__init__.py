"""A Salesforce org on loopback for tests, demo and benchmarks; it imports nothing from the product it exercises."""
