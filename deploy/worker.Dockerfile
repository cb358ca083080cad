# The worker, with TensorFlow (target `worker`), and the one who makes the digits model (target `digits`): the same and
# scikit-learn. Build from the project's directory:
#
#   docker build -f deploy/worker.Dockerfile --target worker -t muster-worker .
#
# Packages come from where pip in the base image looks, or from PIP_INDEX_URL and PIP_EXTRA_INDEX_URL if these are given
# as build arguments. They stay in stages that only lend their files: no image's history or layers show them.
# Works with BuildKit and with the builder before it.
ARG PYTHON_IMAGE=python:3.12-slim

# Only these two files decide what is installed: every other change of pyproject.toml keeps the packages' layer.
FROM ${PYTHON_IMAGE} AS requirements
WORKDIR /requirements
COPY pyproject.toml deploy/requirements.py ./
RUN python requirements.py worker > worker.txt && python requirements.py digits > digits.txt

FROM ${PYTHON_IMAGE} AS packages
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /requirements
COPY constraints.txt ./
COPY --from=requirements /requirements/worker.txt ./
# What goes again is for building on TensorFlow, not for running it: a quarter of it.
RUN python -m venv --without-pip /opt/muster \
    && pip --python /opt/muster/bin/python install --constraint constraints.txt --requirement worker.txt \
    && rm -rf /opt/muster/lib/python3*/site-packages/tensorflow/include /opt/muster/lib/python3*/site-packages/clang

FROM ${PYTHON_IMAGE} AS code
COPY muster /code/muster
COPY discovery /code/discovery
COPY worker /code/worker
COPY deploy/healthy.py deploy/start-worker /code/
# The images are read-only, so what is compiled now need not be at every start.
RUN python -m compileall -q --invalidation-mode unchecked-hash /code

FROM ${PYTHON_IMAGE} AS worker
COPY --from=packages /opt/muster /opt/muster
COPY --from=code /code /opt/muster/code
# MALLOC_ARENA_MAX: decoders and model calls run in many threads, and each would keep an arena of its own.
ENV PATH=/opt/muster/bin:$PATH \
    PYTHONPATH=/opt/muster/code \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_ARENA_MAX=2 \
    HOME=/tmp \
    WORKER_PORT=8501 \
    WORKER_GRPC_PORT=8500
# Without flags a worker serves ./models, which is /models here.
WORKDIR /
USER 10001:10001
EXPOSE 8500 8501
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-IS", "/opt/muster/code/healthy.py", "WORKER_PORT", "/readyz", "WORKER_GRPC_PORT"]
ENTRYPOINT ["/opt/muster/code/start-worker"]

FROM packages AS digits-packages
COPY --from=requirements /requirements/digits.txt ./
# An environment on top of the worker's, so that its layer holds only what comes in addition.
RUN python -m venv --without-pip /opt/digits \
    && ls -d /opt/muster/lib/python3*/site-packages > "$(ls -d /opt/digits/lib/python3*/site-packages)/worker.pth" \
    && pip --python /opt/digits/bin/python install --constraint constraints.txt --requirement digits.txt

FROM worker AS digits
COPY --from=digits-packages /opt/digits /opt/digits
ENV PATH=/opt/digits/bin:$PATH
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "worker.digits"]
CMD ["--out", "/models", "--only-if-empty"]
