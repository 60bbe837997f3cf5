"""The benchmark of cryobox: `python -m bench --data FOLDER`; see README.md."""
