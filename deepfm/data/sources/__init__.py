"""Where raw tables come from: adapters, declared tables, downloads, and a first description."""
