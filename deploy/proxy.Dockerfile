# The proxy, without TensorFlow. Build from the project's directory:
#
#   docker build -f deploy/proxy.Dockerfile -t muster-proxy .
#
# Where packages come from, and why the stages: as in worker.Dockerfile.
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS requirements
WORKDIR /requirements
COPY pyproject.toml deploy/requirements.py ./
RUN python requirements.py proxy > proxy.txt

FROM ${PYTHON_IMAGE} AS packages
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /requirements
COPY constraints.txt ./
COPY --from=requirements /requirements/proxy.txt ./
RUN python -m venv --without-pip /opt/muster \
    && pip --python /opt/muster/bin/python install --constraint constraints.txt --requirement proxy.txt

FROM ${PYTHON_IMAGE} AS code
COPY muster /code/muster
COPY discovery /code/discovery
COPY proxy /code/proxy
COPY deploy/healthy.py /code/
RUN python -m compileall -q --invalidation-mode unchecked-hash /code

FROM ${PYTHON_IMAGE} AS proxy
COPY --from=packages /opt/muster /opt/muster
COPY --from=code /code /opt/muster/code
ENV PATH=/opt/muster/bin:$PATH \
    PYTHONPATH=/opt/muster/code \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    PROXY_PORT=12480 \
    PROXY_GRPC_PORT=12482
WORKDIR /
USER 10001:10001
EXPOSE 12480 12482
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-IS", "/opt/muster/code/healthy.py", "PROXY_PORT", "/healthz"]
ENTRYPOINT ["python", "-m", "proxy"]
