"""One adapter a data set: from the folder that a user holds to source rows."""
