"""A handle and fixtures for the emulator of the VM platform, `reef_site.demo.platform`."""
