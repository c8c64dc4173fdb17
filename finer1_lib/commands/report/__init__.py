"""A run as one HTML page: `page`, with its template.html and the captions of figures.yaml."""
