# shellcheck shell=bash
# Private PostgreSQL and RabbitMQ for one run of a script, and a clean way out of it. To be sourced.
#
#   guard CLEANUP     run CLEANUP once on every way out (end, error, INT, TERM, HUP)
#   services_up       export DATABASE_URL and AMQP_URL, starting servers for those that the caller did not set
#   services_down     stop what services_up started and remove RUN_DIR; silent, may be called again
#   rabbit_ctl ARGS   rabbitmqctl for the node that services_up started
#   helpers for the scripts: run_job, run_through, launch, stop_group, free_ports, http_ok, random_hex, show_log,
#   require_cargo, require_cc
#
# Servers run in process groups of their own, so that Ctrl-C in a terminal reaches the script only, which then stops
# them in order.

READY_SECONDS=60

RUN_DIR=''
REPLY=''

note() { printf '%s\n' "$*" >&2; }

die() {
  note "$*"
  exit 1
}

random_hex() { od -An -v -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

# --- ways out

CLEANUP=:
INTERRUPT_STATUS=130
HELD=0
PENDING=''

guard() {
  CLEANUP=$1
  trap 'finish "$?"' EXIT
  trap 'on_signal "$INTERRUPT_STATUS"' INT
  trap 'on_signal 143' TERM
  trap 'on_signal 129' HUP
}

on_signal() {
  if ((HELD)); then PENDING=$1; else finish "$1"; fi
}

finish() {
  trap '' INT TERM HUP
  trap - EXIT
  PENDING=''
  "$CLEANUP" || true
  exit "$1"
}

# Between hold and release a signal waits: what was just created must be noted before the cleanup runs.
hold() { HELD=1; }

release() {
  HELD=0
  [[ -z $PENDING ]] || finish "$PENDING"
}

# --- processes

JOB=''

# run_job COMMAND... in a process group of its own, so that a signal to the script ends it with all its children.
run_job() {
  local status=0
  hold
  set -m
  "$@" </dev/null &
  JOB=$!
  set +m
  release
  wait "$JOB" 2>/dev/null || status=$?
  JOB=''
  return "$status"
}

# run_through COMMAND... the same, but a signal has to wait until the command has ended.
run_through() {
  local pid status=0
  hold
  set -m
  "$@" </dev/null &
  pid=$!
  set +m
  wait "$pid" || status=$?
  while [[ -n $PENDING ]] && alive "$pid"; do wait "$pid" || status=$?; done
  release
  return "$status"
}

# launch VARIABLE LOG COMMAND... in the background, with its process (and group) id in VARIABLE.
launch() {
  local variable=$1 log=$2
  shift 2
  hold
  set -m
  "$@" </dev/null >>"$log" 2>&1 &
  printf -v "$variable" '%s' "$!"
  # A disowned process is reaped without a message of the shell about how it ended.
  disown "$!" 2>/dev/null || true
  set +m
  release
}

alive() { [[ -n $1 ]] && kill -0 -- "$1" 2>/dev/null; }

# gone_within SECONDS PID (a negative PID is a group)
gone_within() {
  local deadline=$((SECONDS + $1))
  while alive "$2"; do
    ((SECONDS <= deadline)) || return 1
    sleep 0.05
  done
}

# stop_group PID SIGNAL SECONDS [SIGNAL SECONDS]... sends each signal in turn until the group is gone, KILL at last.
stop_group() {
  local group=-$1
  shift
  [[ $group != - ]] || return 0
  while (($# >= 2)); do
    kill -s "$1" -- "$group" 2>/dev/null || return 0
    ! gone_within "$2" "$group" || return 0
    shift 2
  done
  kill -s KILL -- "$group" 2>/dev/null || return 0
  gone_within 5 "$group"
}

# --- files, ports

# In /tmp where root's TMPDIR may be closed to PostgreSQL's user, or the path of a socket (107 bytes) gets too long.
make_run_dir() {
  local parent=${TMPDIR:-/tmp}
  [[ -z $RUN_DIR ]] || return 0
  if ((EUID == 0 || ${#parent} > 60)); then parent=/tmp; fi
  hold
  RUN_DIR=$(trap '' INT TERM HUP && exec mktemp -d "${parent%/}/tollgate.XXXXXX") || RUN_DIR=''
  release
  [[ -n $RUN_DIR ]] || die "cannot create a directory in $parent"
  chmod 711 "$RUN_DIR"
}

remove_run_dir() {
  local tries
  [[ -n $RUN_DIR ]] || return 0
  # A server that had to be killed may have children that still write for a moment.
  for tries in 1 2 3 4 5; do
    rm -rf -- "$RUN_DIR" 2>/dev/null && break
    sleep 0.2
  done
  [[ ! -e $RUN_DIR ]] || note "could not remove $RUN_DIR"
  RUN_DIR=''
}

show_log() {
  [[ -s $1 ]] || return 0
  note "--- last lines of ${1##*/}:"
  tail -n 40 -- "$1" >&2
}

PORTS_TAKEN=' '

# Sets REPLY to the first of COUNT consecutive ports that nobody listens on, below the ephemeral range.
free_ports() {
  local count=$1 port tries
  for ((tries = 0; tries < 200; tries++)); do
    REPLY=$((20000 + RANDOM % (12000 / count) * count))
    for ((port = REPLY; port < REPLY + count; port++)); do
      if [[ $PORTS_TAKEN == *" $port "* ]] || listening "$port"; then continue 2; fi
    done
    for ((port = REPLY; port < REPLY + count; port++)); do PORTS_TAKEN+="$port "; done
    return 0
  done
  die 'no free port between 20000 and 32000'
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# http_ok HOST:PORT PATH succeeds when the answer is 200.
http_ok() (
  host=${1%:*} status=''
  host=${host#[} host=${host%]}
  exec 2>/dev/null 3<>"/dev/tcp/$host/${1##*:}" || exit 1
  printf 'GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$2" "$1" >&3
  read -r -t 5 _ status _ <&3
  # Read to the end: closing early would look like a broken client in the server's log.
  while read -r -t 5 _ <&3; do :; done
  [[ $status == 200 ]]
)

# --- packages of the distribution

APT_UPDATED=''
POLICY=/usr/sbin/policy-rc.d
POLICY_OURS=''
CREATECLUSTER=/etc/postgresql-common/createcluster.d
CREATECLUSTER_OURS=''

can_install() { ((EUID == 0)) && command -v apt-get >/dev/null; }

apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 "$@"; }

# The download can be interrupted; the installation cannot, so that no package is left half configured.
install_packages() {
  local log status=0
  make_run_dir
  log=$RUN_DIR/apt.log
  note "installing $*"
  if [[ -z $APT_UPDATED ]]; then
    run_job apt update >>"$log" 2>&1 || true
    APT_UPDATED=yes
  fi
  hold
  forbid_package_servers
  release
  run_job apt --download-only --no-install-recommends install "$@" >>"$log" 2>&1 || status=$?
  if ((status == 0)); then run_through apt --no-install-recommends install "$@" >>"$log" 2>&1 || status=$?; fi
  allow_package_servers
  ((status == 0)) || show_log "$log"
  return "$status"
}

# Neither may a server of the package start, nor a cluster of its own be created, which would start at the next boot.
forbid_package_servers() {
  if [[ ! -e $POLICY ]]; then
    POLICY_OURS=yes
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"
  fi
  CREATECLUSTER_OURS=yes
  mkdir -p "$CREATECLUSTER"
  printf 'create_main_cluster = false\n' >"$CREATECLUSTER/tollgate.conf"
}

allow_package_servers() {
  [[ -z $POLICY_OURS ]] || rm -f "$POLICY"
  POLICY_OURS=''
  [[ -n $CREATECLUSTER_OURS ]] || return 0
  rm -f "$CREATECLUSTER/tollgate.conf"
  rmdir "$CREATECLUSTER" "${CREATECLUSTER%/*}" 2>/dev/null || true
  CREATECLUSTER_OURS=''
}

# --- the toolchain

require_cargo() {
  local wanted found
  if ! command -v cargo >/dev/null && [[ -x ${CARGO_HOME:-${HOME:-}/.cargo}/bin/cargo ]]; then
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
  fi
  wanted=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' Cargo.toml | head -n 1)
  command -v cargo >/dev/null || die "cargo is missing: install Rust ${wanted:-stable} or newer from https://rustup.rs"
  found=$(cargo --version | sed -n 's/^cargo \([0-9.]*\).*/\1/p')
  at_least "$found" "${wanted:-0}" ||
    die "Rust $found is too old, $wanted or newer is needed: run \`rustup update\` (https://rustup.rs)"
}

# at_least VERSION MINIMUM
at_least() {
  local have want index
  IFS=. read -r -a have <<<"$1"
  IFS=. read -r -a want <<<"$2"
  for index in 0 1 2; do
    ((10#${have[index]:-0} == 10#${want[index]:-0})) || return $((10#${have[index]:-0} < 10#${want[index]:-0}))
  done
}

require_cc() {
  command -v cc >/dev/null && command -v make >/dev/null && return 0
  if can_install; then install_packages gcc make libc6-dev pkg-config || true; fi
  command -v cc >/dev/null || die 'a C compiler is missing: install gcc (or clang) so that there is a cc in PATH'
  command -v make >/dev/null || die 'make is missing: install it (the allocator is built with it)'
}

# --- PostgreSQL

PG_BIN=''
PG_PID=''
PG_PORT=''
AS_POSTGRES=()

# Sets PG_BIN to the newest complete set of server programs.
postgres_find() {
  local bin versions
  versions=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -t/ -k5,5nr)
  for bin in $versions "$(dirname "$(command -v postgres)")" "$(pg_config --bindir 2>/dev/null)" \
    /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
    [[ -x $bin/postgres && -x $bin/initdb && -x $bin/pg_isready ]] || continue
    PG_BIN=$bin
    return 0
  done
  return 1
}

psql_find() {
  REPLY=$(command -v psql) && return 0
  postgres_find && REPLY=$PG_BIN/psql && [[ -x $REPLY ]]
}

# PostgreSQL refuses to run as root. setpriv, unlike su, becomes the command and keeps the process id.
postgres_user() {
  local user=postgres
  AS_POSTGRES=()
  if ((EUID == 0)); then
    id -u "$user" >/dev/null 2>&1 || user=nobody
    command -v setpriv >/dev/null || die 'setpriv (util-linux) is needed to run PostgreSQL as another user than root'
    chown "$user" "$RUN_DIR/postgres"
    AS_POSTGRES=(setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups)
  fi
  # shellcheck disable=SC2016 # expanded by the inner shell
  AS_POSTGRES+=(env HOME="$RUN_DIR/postgres" LC_ALL=C sh -c 'cd "$HOME" && exec "$@"' sh)
}

# initdb must not be interrupted: the server that it runs would leave shared memory behind.
postgres_create() {
  mkdir -m 700 "$RUN_DIR/postgres"
  postgres_user
  run_through "${AS_POSTGRES[@]}" "$PG_BIN/initdb" -D "$RUN_DIR/postgres/data" -U postgres -A trust \
    -E UTF8 --no-locale --no-sync >"$RUN_DIR/postgres.log" 2>&1 || server_failed postgres
}

postgres_launch() {
  free_ports 1
  PG_PORT=$REPLY
  postgres_run
}

# Again on the same port, with the same data.
postgres_run() {
  launch PG_PID "$RUN_DIR/postgres.log" "${AS_POSTGRES[@]}" "$PG_BIN/postgres" -D "$RUN_DIR/postgres/data" \
    -p "$PG_PORT" -k "$RUN_DIR/postgres" -c listen_addresses=127.0.0.1 -c max_connections=400
}

postgres_alive() { alive "$PG_PID"; }

# Through the socket in our own directory: another server can never answer for ours.
postgres_ready() { "$PG_BIN/pg_isready" -q -h "$RUN_DIR/postgres" -p "$PG_PORT"; }

postgres_stop() {
  stop_group "$PG_PID" INT 10 QUIT 5
  PG_PID=''
}

# --- RabbitMQ

RABBIT_BIN=''
RABBIT_PID=''
RABBIT_PORT=''
RABBIT_NAME=''
RABBIT_ENV=()
EPMD_PID=''

# Sets RABBIT_BIN. A directory without rabbitmq-env holds Debian's wrappers, which switch to another user.
rabbit_find() {
  local bin on_path
  command -v erl >/dev/null && command -v epmd >/dev/null || return 1
  on_path=$(command -v rabbitmq-server || true)
  for bin in /usr/lib/rabbitmq/bin /usr/lib/rabbitmq/lib/*/sbin "$(dirname "$on_path")" \
    "$(dirname "$(readlink -f "$on_path" 2>/dev/null)")" \
    /opt/rabbitmq*/sbin /opt/homebrew/opt/rabbitmq/sbin /usr/local/opt/rabbitmq/sbin; do
    [[ -x $bin/rabbitmq-server && -e $bin/rabbitmq-env ]] || continue
    RABBIT_BIN=$bin
    return 0
  done
  return 1
}

rabbit_create() {
  local dir=$RUN_DIR/rabbitmq
  rm -rf "$dir"
  mkdir -m 700 "$dir" "$dir/mnesia" "$dir/log" "$dir/gen" "$dir/tmp"
  random_hex 20 >"$dir/.erlang.cookie"
  chmod 400 "$dir/.erlang.cookie"
  printf '[].' >"$dir/enabled_plugins"
  printf '%s\n' 'log.console = false' 'disk_free_limit.absolute = 50MB' >"$dir/rabbitmq.conf"
}

# rabbit_env FIRST_PORT: everything that a node would else share with another one on this machine.
# RUNNING_UNDER_SYSTEMD makes the start script become the Erlang machine instead of watching it as a child.
rabbit_env() {
  local dir=$RUN_DIR/rabbitmq port=$1
  RABBIT_NAME=tollgate$port
  RABBIT_ENV=(
    HOME="$dir" TMPDIR="$dir/tmp" LC_ALL=C.UTF-8 RUNNING_UNDER_SYSTEMD=true
    ERL_CRASH_DUMP="$dir/log/erl_crash.dump" ERL_EPMD_PORT="$((port + 2))" ERL_EPMD_ADDRESS=127.0.0.1
    RABBITMQ_NODENAME="$RABBIT_NAME@localhost" RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT="$port"
    RABBITMQ_DIST_PORT="$((port + 1))"
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}'
    RABBITMQ_CTL_DIST_PORT_MIN="$((port + 3))" RABBITMQ_CTL_DIST_PORT_MAX="$((port + 15))"
    RABBITMQ_MNESIA_BASE="$dir/mnesia" RABBITMQ_LOG_BASE="$dir/log" RABBITMQ_LOGS="$dir/log/rabbitmq.log"
    RABBITMQ_CONFIG_FILE="$dir/rabbitmq.conf" RABBITMQ_ADVANCED_CONFIG_FILE="$dir/none.config"
    RABBITMQ_CONF_ENV_FILE="$dir/none.conf" RABBITMQ_ENABLED_PLUGINS_FILE="$dir/enabled_plugins"
    RABBITMQ_PID_FILE="$dir/pid" RABBITMQ_GENERATED_CONFIG_DIR="$dir/gen"
  )
}

rabbit_launch() {
  rabbit_create
  free_ports 16
  RABBIT_PORT=$REPLY
  rabbit_env "$RABBIT_PORT"
  rabbit_run
}

# Again on the same ports, with the same data.
rabbit_run() {
  # Without an epmd of ours the node would start one that outlives it.
  launch EPMD_PID "$RUN_DIR/rabbitmq.log" epmd -port "$((RABBIT_PORT + 2))" -address 127.0.0.1
  # shellcheck disable=SC2016 # expanded by the inner shell
  launch RABBIT_PID "$RUN_DIR/rabbitmq.log" env "${RABBIT_ENV[@]}" \
    sh -c 'cd "$HOME" && exec "$@"' sh "$RABBIT_BIN/rabbitmq-server"
}

rabbit_alive() { alive "$RABBIT_PID" && alive "$EPMD_PID"; }

rabbit_ready() { amqp_answers "$RABBIT_PORT" "$RABBIT_NAME"; }

# amqp_answers PORT NAME: a broker greets, and its greeting holds NAME (the cluster's name begins with the node's), so
# that the broker of another run cannot be taken for ours.
amqp_answers() (
  LC_ALL=C first='' text=''
  exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
  printf 'AMQP\0\0\x09\x01' >&3
  IFS= read -r -t 5 -n 1 -d '' first <&3
  [[ $first == $'\x01' ]] || exit 1
  while IFS= read -r -t 1 -d '' text <&3 && [[ $text != *"$2"* ]]; do :; done
  [[ $text == *"$2"* ]]
)

rabbit_ctl() {
  [[ -n $RABBIT_PID ]] || die 'rabbit_ctl: the broker was not started by this script'
  env "${RABBIT_ENV[@]}" "$RABBIT_BIN/rabbitmqctl" "$@"
}

# A node in the first second of its start loses a TERM, so it gets a second one.
rabbit_stop() {
  stop_group "$RABBIT_PID" TERM 3 TERM 12
  RABBIT_PID=''
  stop_group "$EPMD_PID" TERM 2
  EPMD_PID=''
}

# --- containers, where the servers are not installed

ENGINE=''
CONTAINERS=()

container_engine() {
  for ENGINE in docker podman; do
    "$ENGINE" info >/dev/null 2>&1 && return 0
  done
  ENGINE=''
  return 1
}

# container_launch IMAGE PORT ARGS... sets REPLY to the container's name and PORT's counterpart on this machine.
container_launch() {
  local image=$1 port=$2 name
  shift 2
  name=tollgate-$(random_hex 6)
  "$ENGINE" image inspect "$image" >/dev/null 2>&1 || {
    note "pulling $image"
    run_job "$ENGINE" pull -q "$image" >/dev/null || die "cannot pull $image"
  }
  CONTAINERS+=("$name")
  run_through "$ENGINE" run --rm -d --name "$name" -p "127.0.0.1::$port" "$@" >/dev/null ||
    die "cannot start a container of $image"
  REPLY="$name $("$ENGINE" port "$name" "$port/tcp" | sed -n 's/^.*:\([0-9]*\)$/\1/p' | head -n 1)"
}

containers_stop() {
  local name
  for name in ${CONTAINERS[@]+"${CONTAINERS[@]}"}; do
    "$ENGINE" rm -f -v "$name" >/dev/null 2>&1 || true
  done
  CONTAINERS=()
}

PG_CONTAINER=''
RABBIT_CONTAINER=''

postgres_container_launch() {
  container_launch postgres:17 5432 -e POSTGRES_HOST_AUTH_METHOD=trust --shm-size=256m \
    postgres:17 -c max_connections=400
  read -r PG_CONTAINER PG_PORT <<<"$REPLY"
}

postgres_container_alive() { "$ENGINE" inspect "$PG_CONTAINER" >/dev/null 2>&1; }

# With --rm a container that ended is gone; nothing is left to stop.
postgres_container_stop() { PG_CONTAINER=''; }

# Over TCP: while it initialises, the image's server listens on its socket only.
postgres_container_ready() { "$ENGINE" exec "$PG_CONTAINER" pg_isready -q -h 127.0.0.1; }

rabbit_container_launch() {
  container_launch rabbitmq:4 5672 rabbitmq:4
  read -r RABBIT_CONTAINER RABBIT_PORT <<<"$REPLY"
}

rabbit_container_alive() { "$ENGINE" inspect "$RABBIT_CONTAINER" >/dev/null 2>&1; }

rabbit_container_stop() { RABBIT_CONTAINER=''; }

rabbit_container_ready() { amqp_answers "$RABBIT_PORT" ''; }

# --- both

PG_OURS=''
RABBIT_OURS=''

# choose SERVER LABEL PACKAGE VARIABLE sets REPLY to the kind of server that can be started here.
choose() {
  local server=$1 label=$2 package=$3 variable=$4
  if ! "${server}_find" && can_install; then install_packages "$package" || true; fi
  if "${server}_find"; then
    REPLY=$server
  elif container_engine; then
    REPLY=${server}_container
  else
    die "$label is not installed: install it, or start Docker or Podman, or set $variable to a server that runs already"
  fi
}

# await SERVER: starts it again, on other ports, when it ends by itself, which is mostly a port taken in between.
await() {
  local server=$1 deadline=$((SECONDS + READY_SECONDS)) starts=1
  until "${server}_ready"; do
    if ! "${server}_alive"; then
      if ((starts++ == 3)); then server_failed "$server"; fi
      "${server}_stop"
      "${server}_launch"
    fi
    ((SECONDS < deadline)) || server_failed "$server"
    sleep 0.1
  done
}

server_failed() {
  local server=${1%_container} log name
  for log in "$RUN_DIR/$server"*.log "$RUN_DIR/$server"*/log/*.log; do show_log "$log"; done
  for name in ${CONTAINERS[@]+"${CONTAINERS[@]}"}; do "$ENGINE" logs --tail 40 "$name" >&2 || true; done
  die "$server did not start"
}

# RabbitMQ takes longest, so it starts first and is waited for last.
services_up() {
  local postgres='' rabbit=''
  make_run_dir
  if [[ -z ${DATABASE_URL:-} ]]; then
    choose postgres PostgreSQL postgresql DATABASE_URL
    postgres=$REPLY
  fi
  if [[ -z ${AMQP_URL:-} ]]; then
    choose rabbit RabbitMQ rabbitmq-server AMQP_URL
    rabbit=$REPLY
  fi
  if [[ -n $rabbit ]]; then
    note 'starting RabbitMQ'
    RABBIT_OURS=yes
    "${rabbit}_launch"
  fi
  if [[ -n $postgres ]]; then
    note 'starting PostgreSQL'
    PG_OURS=yes
    if [[ $postgres == postgres ]]; then postgres_create; fi
    "${postgres}_launch"
    await "$postgres"
    DATABASE_URL=postgres://postgres@127.0.0.1:$PG_PORT/postgres
  fi
  if [[ -n $rabbit ]]; then
    await "$rabbit"
    AMQP_URL=amqp://guest:guest@127.0.0.1:$RABBIT_PORT/%2f
  fi
  export DATABASE_URL AMQP_URL
}

services_down() {
  stop_group "$JOB" TERM 15
  JOB=''
  rabbit_stop
  postgres_stop
  containers_stop
  allow_package_servers
  remove_run_dir
  [[ -z $PG_OURS ]] || unset DATABASE_URL
  [[ -z $RABBIT_OURS ]] || unset AMQP_URL
  PG_OURS='' RABBIT_OURS=''
}
