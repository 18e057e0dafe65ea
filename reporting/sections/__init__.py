"""What each section of the page shows, as plain values and charts for the template."""
