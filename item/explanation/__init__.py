"""Why a picture has its verdict, in sentences and as a picture."""
