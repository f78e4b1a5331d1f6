"""The pages as an installable application: manifest, service worker, offline page."""
