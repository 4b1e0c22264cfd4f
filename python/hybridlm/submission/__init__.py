"""Submissions to the parameter-golf challenge: folders that hold a record and all that it is checked by."""
