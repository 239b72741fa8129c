package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

func (a *app) cacheToken() *cobra.Command {
	cmd := &cobra.Command{
		Use: "token", Short: "Make and revoke tokens", Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.cacheTokenCreate(), a.cacheTokenRevoke())
	return cmd
}

// longestValidity is what a token can be valid for.
const longestValidity = 100 * 365 * 24 * time.Hour

func (a *app) cacheTokenCreate() *cobra.Command {
	var key, sub, validity string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Sign a token, as Attic's atticadm make-token does",
		Long: `Sign a token with a secret (HS256) or a private key (RS256), whose file, or public key, the server has in its tokenKeys. No request is made.
Each permission takes a cache's name, in which "*" stands for any characters, and can be given several times.
Whoever gets the token should get to know when it ends. Keep its id: to revoke it, it is needed.`,
		Args: exactly(),
	}
	format := output(cmd)
	cmd.Flags().StringVar(&key, "key", "", "file with the secret or the private key")
	cmd.Flags().StringVar(&sub, "sub", "", "whom the token is for")
	cmd.Flags().StringVar(&validity, "validity", "", `how long it is valid: "30d", "12w", "2y"`)
	given := make([]*[]string, len(tokenFlags))
	for i, f := range tokenFlags {
		given[i] = cmd.Flags().StringArray(f.flag, nil, f.help)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		valid, err := tomlfile.ParseDays(orElse(validity, "-"))
		switch {
		case key == "" || sub == "" || validity == "":
			return usage(cmd, fmt.Errorf("--key, --sub and --validity must be given"))
		case err != nil || valid == 0 || valid > longestValidity:
			return usage(cmd, fmt.Errorf(`--validity is %q, and must be like "30d", "12w" or "2y"`, validity))
		}
		now := time.Now()
		g := cache.Grant{Subject: sub, ExpiresAt: now.Add(valid).Truncate(time.Second)}
		for i, patterns := range given {
			for _, p := range *patterns {
				if err := cache.CheckPattern(p); err != nil {
					return usage(cmd, err)
				}
				g.Allow(p, tokenFlags[i].may)
			}
		}
		if len(g.Caches) == 0 {
			return usage(cmd, fmt.Errorf("a token without any permission is good for nothing: give --pull, --push or another"))
		}
		k, err := cache.ReadTokenKey(key)
		if err != nil {
			return err
		}
		token, err := k.Sign(&g, now)
		if err != nil {
			return err
		}
		if *format == "json" {
			return a.json(struct {
				Schema    int       `json:"schema"`
				Token     string    `json:"token"`
				ID        string    `json:"id"`
				ExpiresAt time.Time `json:"expiresAt"`
			}{1, token, g.ID, g.ExpiresAt.UTC()})
		}
		fmt.Fprintf(a.Err, "token %s for %s ends on %s\n", g.ID, sub, g.ExpiresAt.UTC().Format(time.DateOnly))
		_, err = fmt.Fprintln(a.Out, token)
		return err
	}
	return cmd
}

// tokenFlags are atticadm's.
var tokenFlags = [...]struct {
	flag, help string
	may        cache.Permission
}{
	{"pull", "a cache that it may read", cache.Pull},
	{"push", "a cache that it may push to", cache.Push},
	{"delete", "a cache that it may delete paths from, collect and check", cache.Delete},
	{"create-cache", "a cache that it may create", cache.Create},
	{"configure-cache", "a cache that it may configure", cache.Configure},
	{"configure-cache-retention", "a cache of which it may configure what costs: retention, quota, pull-through", cache.ConfigureRetention},
	{"destroy-cache", "a cache that it may destroy", cache.Destroy},
	{"admin", "a cache that it may do everything with", cache.Everything},
}

func (a *app) cacheTokenRevoke() *cobra.Command {
	var of, key string
	cmd := &cobra.Command{
		Use:   "revoke [ID]",
		Short: "End the validity of a token",
		Long: `End the validity of a token, within two seconds on every server. The token is named by its id, or given by --of.
Any token can revoke itself; another is revoked by a token that may do everything with all caches ("--admin '*'"), or with the server's secret (--key).`,
	}
	p := a.placeFlags(cmd)
	server := cmd.Flags().String("server", "", "the name of the login to the server")
	cmd.Flags().StringVar(&of, "of", "", `file with the token to revoke; "-" for standard input`)
	cmd.Flags().StringVar(&key, "key", "", "file with the secret or the private key that tokens are signed with")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 || (len(args) == 1) == (of != "") {
			return usage(cmd, fmt.Errorf("name the token by its ID, or give it by --of"))
		}
		var g cache.Grant
		if of == "" {
			g.ID = args[0]
		} else {
			token, err := a.readToken(of)
			if err == nil {
				g, err = cache.PeekToken(strings.TrimSpace(token))
			}
			if err != nil {
				return err
			}
		}
		if key != "" {
			if err := p.sign(key); err != nil {
				return err
			}
		}
		c, err := p.server(*server)
		if err != nil {
			return err
		}
		return c.Revoke(cmd.Context(), g.ID, g.ExpiresAt)
	}
	return cmd
}

// sign has the client present a token for this one occasion, which allows everything.
func (p *place) sign(key string) error {
	k, err := cache.ReadTokenKey(key)
	if err != nil {
		return err
	}
	g := cache.Grant{Subject: "garrison cache", ExpiresAt: time.Now().Add(5 * time.Minute)}
	g.Allow("*", cache.Everything)
	token, err := k.Sign(&g, time.Now())
	p.token = func() (string, error) { return token, nil }
	return err
}
