"""Small commands around runs and data: python -m zoo.tools.<name>"""
