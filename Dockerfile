# The worker, without devstack, page and compiler: `docker build -t bridge .`, then `docker run --env-file .env bridge`.

FROM python:3.13-slim-bookworm AS build
WORKDIR /app
RUN python -m venv --without-pip /venv
COPY requirements.lock requirements-build.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-build.lock \
    && pip --python /venv/bin/python install --no-cache-dir --disable-pip-version-check \
        --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY bridge bridge
RUN pip wheel --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir /wheel . \
    && pip --python /venv/bin/python install --no-cache-dir --disable-pip-version-check --no-deps /wheel/*.whl
COPY baml_src baml_src
RUN /venv/bin/baml-cli generate && python -m compileall -q baml_client

FROM python:3.13-slim-bookworm
LABEL org.opencontainers.image.title="supabase-baml-bridge" \
    org.opencontainers.image.description="Answers rows of a Supabase table with BAML functions" \
    org.opencontainers.image.licenses="MIT"
# a numeric user, which hosts that refuse root can verify
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin bridge
COPY --from=build /venv /venv
WORKDIR /app
COPY --from=build /app/baml_client baml_client
COPY baml_src baml_src
# answers if BRIDGE_HANDLERS=handlers, and BRIDGE_FUNCTIONS names its functions
COPY handlers.py ./
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
# /healthz, /readyz and /metrics, for your own network only
EXPOSE 8080
# exec form: the worker is process 1, receives SIGTERM and drains
ENTRYPOINT ["bridge"]
CMD ["run"]
