# shellcheck shell=sh disable=SC2154,SC2317,SC2015
# Sourced by bin/switch-to-configuration of a toplevel, which sets $toplevel and defines
# pre_switch and post_switch.
# It does what NixOS' program of this name does, in its order and with its exit codes:
# 0 done, 1 wrong call, pre-switch check or boot entry failed, 2 activation failed, 4 a unit has failed,
# 11 another switch holds the lock, 100 a reboot is needed.
set -u
PATH=${PATH:+$PATH:}/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

action=${1-}
case $action in
  switch | boot | test | dry-activate | check) ;;
  *)
    echo "usage: ${0##*/} switch|boot|test|dry-activate|check" >&2
    exit 1
    ;;
esac

has_systemd() { [ -d /run/systemd/system ]; }

# install_boot_entry makes the toplevel what the host boots next.
install_boot_entry() {
  mkdir -p /boot &&
    printf '%s\n' "$toplevel" > /boot/garrison-entry.new &&
    mv -f /boot/garrison-entry.new /boot/garrison-entry &&
    { sync /boot/garrison-entry 2>/dev/null || sync; }
}

# changed_units names the units that are not what the running system has.
changed_units() {
  for unit in "$toplevel"/units/*; do
    [ -e "$unit" ] || continue
    cmp -s "$unit" "/run/systemd/system/${unit##*/}" || echo "${unit##*/}"
  done
}

interface_changed() {
  [ -e /run/current-system/init-interface-version ] &&
    ! cmp -s /run/current-system/init-interface-version "$toplevel/init-interface-version"
}

# settle waits until no unit is starting any more, at most 9 s.
settle() {
  tries=0
  sleep 0.2
  while [ $tries -lt 45 ] && [ -n "$(systemctl list-units --state=activating --plain --no-legend)" ]; do
    sleep 0.2
    tries=$((tries + 1))
  done
}

mkdir -p /run/nixos || exit 1
exec 9> /run/nixos/switch-to-configuration.lock || exit 1
if ! flock -n 9; then
  echo "another switch-to-configuration is running" >&2
  exit 11
fi

if [ "$action" != dry-activate ] && ! (pre_switch); then
  echo "the pre-switch check failed" >&2
  exit 1
fi
[ "$action" = check ] && exit 0

if [ "$action" = dry-activate ]; then
  echo "would activate $toplevel"
  has_systemd && for unit in $(changed_units); do echo "would restart $unit"; done
  exit 0
fi

if [ "$action" = switch ] || [ "$action" = boot ]; then
  install_boot_entry || { echo "cannot write the boot entry" >&2; exit 1; }
  [ "$action" = boot ] && exit 0
fi

if interface_changed; then
  echo "the new system needs another init: reboot to activate it" >&2
  exit 100
fi

status=0
restart=
if has_systemd; then restart=$(changed_units); fi

echo "activating the configuration..." >&2
"$toplevel/activate" 9>&- || status=2

if has_systemd; then
  systemctl daemon-reload
  if [ -n "$restart" ]; then
    echo "restarting the following units: $restart" >&2
    # shellcheck disable=SC2086 # a list of names
    systemctl restart $restart 9>&- || status=4
  fi
  settle
  failed=$(systemctl list-units --state=failed --plain --no-legend | while read -r unit _; do printf ' %s' "$unit"; done)
  if [ -n "$failed" ]; then
    echo "warning: the following units failed:$failed" >&2
    status=4
  fi
fi
post_switch # may exit by itself, as what fails in the middle does
exit $status
