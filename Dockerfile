# Runs `make test`, sweeps and figures. On CPUs; for GPUs build with --build-arg TORCH_INDEX= and run with --gpus all.
# See docs/clusters.md#containers.
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates g++ git make python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home researcher && install -d -o researcher /lora
USER researcher
WORKDIR /lora
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY --chown=researcher . .
RUN PIP_EXTRA_INDEX_URL=$TORCH_INDEX PIP_NO_CACHE_DIR=1 make setup
ENV PATH=/lora/.venv/bin:$PATH
CMD ["make", "test"]
