"""The processes that go on: the service, the live judge, the loop of jobs, what is scraped of them."""
