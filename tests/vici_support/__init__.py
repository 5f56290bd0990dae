"""What the tests of config and VICI share: an endpoint and a data plane that are filled with views by hand."""
