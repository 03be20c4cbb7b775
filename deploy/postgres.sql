-- Run once, when the volume is empty: the database `lakefs` is made by the image, this is Dagster's.
CREATE DATABASE dagster;
