"""What every page for people needs: plots and text that is safe to show."""
