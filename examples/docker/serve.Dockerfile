# The server without torch: it answers with a directory that `deepfm export` wrote.
#
#   make build
#   docker build -f examples/docker/serve.Dockerfile -t deepfm-serve .
#   docker run -p 127.0.0.1:8000:8000 -e DEEPFM_SERVE_TOKEN=… -v "$PWD/exported:/model:ro" deepfm-serve
#
# docs/serving.md says what it holds and how large that is.
FROM python:3.12-slim

COPY dist/deepfm-*.whl /tmp/
RUN pip install --no-cache-dir --no-deps /tmp/deepfm-*.whl \
    && pip install --no-cache-dir numpy pyarrow xxhash tqdm onnxruntime \
        uvicorn httptools uvloop orjson prometheus-client \
    && rm /tmp/deepfm-*.whl

USER 65534
ENV PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
# No path below /health/ asks for the token.
HEALTHCHECK --start-period=60s --timeout=5s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
# The address is the container's own; a token is asked for if the environment has one.
ENTRYPOINT ["deepfm", "serve", "--export", "/model", "--host", "0.0.0.0"]
CMD ["--workers", "1"]
