"""What makes the book from its sources: pages, notebooks, tables, the index of assets, figures."""
