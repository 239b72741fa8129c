package postgres

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Config says where the database is.
type Config struct {
	URL            string `toml:"url"`            // "postgres://user@host/database", or PostgreSQL's "host=… dbname=…"
	URLFile        string `toml:"urlFile"`        // a file with the URL, password and all; read again for each new connection
	MaxConnections int32  `toml:"maxConnections"` // at the same time; default 10
}

// settings of connections, where the URL does not say otherwise.
const (
	defaultConnections = 10
	leastConnections   = 2 // one holds the lock while another migrates
	connectTimeout     = 10 * time.Second
	maxURLBytes        = 8 << 10
)

// url is what to connect to now.
func (c Config) url() (string, error) {
	if c.URLFile == "" {
		return c.URL, nil
	}
	f, err := os.Open(c.URLFile)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxURLBytes))
	return strings.TrimSpace(string(b)), err
}

// Pool is how to connect, and to how many at the same time. Errors are fleet.Errors that never show the URL, because of the password in it.
func (c Config) Pool() (*pgxpool.Config, error) {
	if (c.URL == "") == (c.URLFile == "") {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeConfig, "postgres: give either url or urlFile")
	}
	url, err := c.url()
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeKey, "the URL of PostgreSQL in %s cannot be read", c.URLFile).WithCause(err)
	}
	p, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeConfig, "postgres: %s is not what PostgreSQL can be reached at", c.source()).
			WithHint("write postgres://user:password@host:5432/database")
	}
	p.MaxConns = defaultConnections
	if c.MaxConnections != 0 {
		p.MaxConns = max(c.MaxConnections, leastConnections)
	}
	if p.ConnConfig.ConnectTimeout == 0 {
		p.ConnConfig.ConnectTimeout = connectTimeout
	}
	p.BeforeConnect = c.refresh
	return p, nil
}

// refresh gives a new connection the user and password that the file has now. Where it cannot be read, what it had stays.
func (c Config) refresh(_ context.Context, conn *pgx.ConnConfig) error {
	if c.URLFile == "" {
		return nil
	}
	url, err := c.url()
	if err != nil {
		return nil
	}
	now, err := pgx.ParseConfig(url)
	if err != nil {
		return errors.New(c.URLFile + " is not what PostgreSQL can be reached at any more")
	}
	conn.User, conn.Password = now.User, now.Password
	return nil
}

func (c Config) source() string {
	if c.URLFile != "" {
		return "what " + c.URLFile + " has"
	}
	return "url"
}
