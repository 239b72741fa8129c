package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"filippo.io/age/plugin"
	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
	"github.com/garrison-nix/garrison/internal/release"
	"github.com/garrison-nix/garrison/internal/secret"
)

func (a *app) secretsEdit() *cobra.Command {
	var repo, identity string
	cmd := &cobra.Command{
		Use:   "edit FILE",
		Short: "Edit a secret of the source branch in $EDITOR, and encrypt it for the editors",
		Long: `Edit decrypts FILE (made if it is not there) with --identity into memory-backed storage, opens $EDITOR on it,
and encrypts what was saved for the editors that garrison.toml names; where it names none, for whom the file's rule in
agenix's secrets.nix does. What is not changed is not written.`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runEdit(cmd.Context(), repo, identity, args[0])
		},
	}
	cmd.Flags().StringVar(&repo, "repo", ".", "the fleet's repository, for garrison.toml and secrets.nix")
	cmd.Flags().StringVar(&identity, "identity", "", "an editor's private key (age, SSH, or a plugin's); not needed for a new file")
	return cmd
}

const maxSecret = secret.MaxFileBytes

func (a *app) runEdit(ctx context.Context, repo, identity, file string) error {
	c, err := readFleetConfig(repo)
	if err != nil {
		return err
	}
	if !release.SecretFile(file) {
		return fleet.Errorf("", fleet.CodeUsage, "%s does not look like a secret", file).WithHint("secrets are called *.age, or *.yaml, *.json, *.env, *.ini, *.sops for sops")
	}
	readers, err := a.readersOf(ctx, repo, c)
	if err != nil {
		return err
	}
	editors, err := readers.of(file)
	if err != nil {
		return err
	}
	was, err := openSecret(file, identity, readers.ui)
	if err != nil {
		return err
	}
	defer was.Wipe()
	text, err := a.inEditor(ctx, filepath.Base(file), was.Data)
	if err != nil {
		return err
	}
	defer clear(text)
	var sealed []byte
	if was.isNew {
		sealed, err = secret.EncryptFor(file, secret.KindAuto, text, editors, time.Now())
	} else {
		sealed, err = was.Seal(text, editors, time.Now())
	}
	if err != nil {
		return err
	}
	if err := durable.WriteFile(file, sealed, 0o644); err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "cannot write %s", file).WithCause(err)
	}
	return nil
}

// pluginUI is what age plugins ask through: the terminal, if there is one.
func (a *app) pluginUI() *plugin.ClientUI {
	if isTerminal(a.Err) {
		return plugin.NewTerminalUI(nil, nil)
	}
	return nil
}

// opened is a secret that is edited.
type opened struct {
	*secret.Opened
	isNew bool
}

func openSecret(file, identity string, ui *plugin.ClientUI) (opened, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return opened{&secret.Opened{}, true}, nil
	}
	if err != nil {
		return opened{}, fleet.Errorf(fleet.Local, fleet.CodeSecret, "cannot read %s", file).WithCause(err)
	}
	if identity == "" {
		return opened{}, fleet.Errorf("", fleet.CodeUsage, "--identity is missing: %s must be decrypted first", file)
	}
	ids, err := secret.LoadIdentitiesWith(identity, ui)
	if err != nil {
		return opened{}, err
	}
	o, err := secret.Open(file, data, ids)
	return opened{o, false}, err
}

// tmpfsMagic is what statfs(2) calls a file system in memory.
const tmpfsMagic = 0x01021994

// inEditor opens $EDITOR on a file in memory-backed storage, which is overwritten and removed afterwards.
func (a *app) inEditor(ctx context.Context, name string, text []byte) (_ []byte, err error) {
	var fs syscall.Statfs_t
	const memory = "/dev/shm"
	if err := syscall.Statfs(memory, &fs); err != nil || fs.Type != tmpfsMagic {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeSecret, "%s is not in memory here: the secret would touch a disk", memory).WithHint("mount a tmpfs there")
	}
	dir, err := os.MkdirTemp(memory, "garrison-edit-")
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeState, "cannot make a folder in %s", memory).WithCause(err)
	}
	file := filepath.Join(dir, name)
	defer func() {
		if f, oerr := os.OpenFile(file, os.O_WRONLY, 0); oerr == nil {
			info, _ := f.Stat()
			_, werr := f.Write(make([]byte, info.Size()))
			err = errors.Join(err, werr, f.Close())
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	editor := os.Getenv("VISUAL")
	if editor == "" {
		editor = os.Getenv("EDITOR")
	}
	if editor == "" {
		return nil, fleet.Errorf("", fleet.CodeUsage, "EDITOR is not set").WithHint("EDITOR=nano garrison secrets edit …")
	}
	run := proc.Cmd{Program: "sh", Args: []string{"-c", editor + ` "$1"`, "sh", file}}
	if err := proc.Interactive(ctx, run, a.In, a.Out, a.Err); err != nil {
		return nil, fleet.Errorf("", fleet.CodeCanceled, "the editor failed, nothing was changed").WithCause(err)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSecret+1))
}
