# shellcheck shell=sh disable=SC2154,SC2317,SC2015
# Sourced by the script activate of a toplevel, which sets $toplevel and $identities and
# defines secrets and extra_activation. Like NixOS' it goes on after a failure, makes the
# toplevel the current system in any case, and then exits with 2.
set -u
PATH=${PATH:+$PATH:}/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
status=0
failed() { echo "$*" >&2; status=2; }

# link TARGET PLACE replaces a link at once.
link() { ln -sfn "$1" "$2.new" && mv -fT "$2.new" "$2"; }

etc() {
  mkdir -p /etc
  link "$toplevel/etc" /etc/static || return
  for file in "$toplevel"/etc/*; do
    link "/etc/static/${file##*/}" "/etc/${file##*/}" || return
  done
  for file in /etc/*; do # links of an earlier system, to what this one does not have
    case $(readlink "$file") in
      /etc/static/*) [ -e "$file" ] || rm -f "$file" ;;
    esac
  done
}

# secret NAME FILE PATH MODE OWNER GROUP decrypts one into the new generation.
secret() {
  umask 077
  # shellcheck disable=SC2086 # options of their own
  if age --decrypt $identity_options -o "$generation/$1.new" "$2"; then
    chmod "$4" "$generation/$1.new" && chown "$5:$6" "$generation/$1.new" &&
      mv -f "$generation/$1.new" "$generation/$1" || failed "cannot place the secret $1"
  else
    rm -f "$generation/$1.new"
    failed "cannot decrypt the secret $1: it is not encrypted for a key of this host"
  fi
  umask 022
  [ "$3" = "/run/agenix/$1" ] || { mkdir -p "$(dirname "$3")" && link "/run/agenix/$1" "$3"; }
}

# all_secrets decrypts everything into a fresh generation and then replaces the old one.
all_secrets() {
  old=$(readlink /run/agenix) || old=/run/agenix.d/0
  generation=/run/agenix.d/$((${old##*/} + 1))
  identity_options=
  for identity in $identities; do
    if [ -r "$identity" ]; then
      identity_options="$identity_options -i $identity"
    else
      echo "there is no key $identity" >&2
    fi
  done
  rm -rf "$generation"
  mkdir -p "$generation" && chmod 0751 /run/agenix.d "$generation" || return
  secrets
  link "$generation" /run/agenix || return
  rm -rf "$old"
}

units() {
  [ -d /run/systemd/system ] || return 0
  for unit in "$toplevel"/units/*; do
    cp "$unit" "/run/systemd/system/${unit##*/}" || return
  done
}

etc || failed "cannot set up /etc"
all_secrets || failed "cannot set up /run/agenix"
units || failed "cannot set up units"
(extra_activation) || failed "the host's own activation failed"

link "$toplevel" /run/current-system || failed "cannot set /run/current-system"
mkdir -p /nix/var/nix/gcroots && ln -sfn /run/current-system /nix/var/nix/gcroots/current-system
exit $status
