"""Uploads a folder with boto3 in one of three ways; writes the seconds that it took, without the start of the process.

usage: seed.py WAY FOLDER URL OUT, where WAY is one, pool or threads
"""

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config

way, folder, url, out = sys.argv[1:]
paths = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]


def client():
    config = Config(s3={"addressing_style": "path"}, max_pool_connections=10)
    return boto3.session.Session().client("s3", endpoint_url=url, config=config)


def send(s3, path):
    s3.upload_file(path, "bucket", os.path.relpath(path, folder))


began = time.perf_counter()
if way == "one":
    s3 = client()
    for path in paths:
        send(s3, path)
elif way == "pool":
    s3 = client()
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda path: send(s3, path), paths))
elif way == "threads":
    threads = [threading.Thread(target=lambda path=path: send(client(), path)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
else:
    sys.exit(f"{way} is unknown")
took = time.perf_counter() - began
with open(out, "w", encoding="ascii") as file:
    file.write(str(took))
