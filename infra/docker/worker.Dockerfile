# One image for workers and for the server: the project with Prefect, run by nobody in particular. The build context is
# the root of the checkout, less what .dockerignore leaves out: a new folder to copy has to be named there, too.
#
#   docker build -f infra/docker/worker.Dockerfile -t ununennium .                             torch with CUDA
#   docker build -f infra/docker/worker.Dockerfile -t ununennium --build-arg TORCH_INDEX=URL . torch of that index, such
#                                                                                              as one of CPU builds
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
RUN pip install --no-cache-dir --disable-pip-version-check "uv>=0.8,<1"
# Nobody can write into the environment later: compiled here, or by every process anew, for seconds.
ENV UV_COMPILE_BYTECODE=1
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY ununennium ununennium
ARG TORCH_INDEX=
# The versions that the tests last passed with; torch and torchvision of one index, as a torchvision of another torch fails
# to import. They are constraints of the second step, too, so that nothing there replaces either.
ARG TORCH=2.15.0
ARG TORCHVISION=0.29.2
RUN uv venv /opt/venv \
 && printf 'torch==%s\ntorchvision==%s\n' "$TORCH" "$TORCHVISION" > torch.txt \
 && uv pip install --no-cache --python /opt/venv/bin/python ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -r torch.txt \
 && uv pip install --no-cache --python /opt/venv/bin/python -c constraints.txt -c torch.txt \
      ".[pipeline,stac,zoo,kubernetes]" prefect-redis

FROM python:${PYTHON}-slim-bookworm
# setpriv, by which a training process learns that its launcher was killed, is part of the base image's util-linux.
RUN useradd --uid 1000 --create-home ununennium \
 && install -d -o ununennium -g ununennium /srv/ununennium/storage /srv/ununennium/maps /var/lib/ununennium
COPY --from=build /opt/venv /opt/venv
WORKDIR /srv/ununennium
COPY flows flows
COPY infra infra
COPY deployments deployments
COPY examples examples
COPY --chmod=755 infra/docker/with-secrets /usr/local/bin/with-secrets
# Flows and infra are no part of the wheel: they are found here from any working directory.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/srv/ununennium \
    PYTHONUNBUFFERED=1 \
    UNUNENNIUM_WORK=/var/lib/ununennium/runs \
    DO_NOT_TRACK=1 \
    PREFECT_UI_STATIC_DIRECTORY=/var/lib/ununennium/ui \
    PREFECT_CLI_PROMPT=false \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE=false
USER 1000
ENTRYPOINT ["with-secrets"]
CMD ["prefect", "worker", "start", "--pool", "local", "--type", "process", "--with-healthcheck"]
