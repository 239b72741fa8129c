package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"strings"
	"time"
)

// email tells by SMTP.
type email struct {
	server   string // host:port
	security string // "starttls", "tls" or "none"
	user     string // "" does not log in
	password string // file
	from     mail.Address
	to       []mail.Address
	tls      *tls.Config
	now      func() time.Time
}

// Send hands one message for all recipients over to the server.
func (s *email) Send(ctx context.Context, m Message) error {
	password := ""
	if s.user != "" {
		var err error
		if password, err = secretFile(s.password); err != nil {
			return err
		}
	}
	err := s.hand(ctx, m, password)
	var said *textproto.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &said): // 5xx is for ever, but for what somebody may mend: whom it lets in, and what it relays
		return &SendError{Text: hidden(fmt.Sprintf("answers %d: %s", said.Code, oneLine(said.Msg, maxSaid)), password), Never: said.Code == 552 || said.Code == 554}
	case ctx.Err() != nil:
		return errors.New("does not answer in time")
	}
	return errors.New(hidden(oneLine(err.Error(), maxSaid), password))
}

func (s *email) hand(ctx context.Context, m Message, password string) error {
	host, _, err := net.SplitHostPort(s.server)
	if err != nil {
		return err
	}
	raw, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, "tcp", s.server)
	if err != nil {
		return err
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	conf := s.tls.Clone()
	conf.ServerName = host
	conn := net.Conn(&bounder{Conn: raw, left: maxSMTP})
	if s.security == "tls" {
		conn = tls.Client(conn, conf)
	}
	c, err := smtp.NewClient(conn, host)
	if err != nil {
		return err
	}
	if s.security == "starttls" {
		if ok, _ := c.Extension("STARTTLS"); !ok {
			return errors.New("has no STARTTLS, and security is \"starttls\"")
		}
		if err := c.StartTLS(conf); err != nil {
			return err
		}
	}
	if s.user != "" {
		if err := c.Auth(s.auth(c, host, password)); err != nil {
			return err
		}
	}
	if err := c.Mail(s.from.Address); err != nil {
		return err
	}
	for _, to := range s.to {
		if err := c.Rcpt(to.Address); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(s.text(m)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_ = c.Quit() // it has taken the message
	return nil
}

// maxSMTP is what is read of a server, in all: its answers are short, and net/smtp takes whatever comes.
const maxSMTP = 256 << 10

// bounder ends a connection whose other end says too much.
type bounder struct {
	net.Conn
	left int
}

func (b *bounder) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("says more than an SMTP server has to")
	}
	n, err := b.Conn.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// auth is PLAIN, or LOGIN where a server has only that. Both send a password as it is: net/smtp's PLAIN refuses without TLS, but to this machine.
func (s *email) auth(c *smtp.Client, host, password string) smtp.Auth {
	if _, ways := c.Extension("AUTH"); !strings.Contains(" "+ways+" ", " PLAIN ") && strings.Contains(ways, "LOGIN") {
		return &login{user: s.user, password: password}
	}
	return smtp.PlainAuth("", s.user, password, host)
}

type login struct{ user, password string }

func (l *login) Start(server *smtp.ServerInfo) (string, []byte, error) {
	if !server.TLS {
		return "", nil, errors.New("offers LOGIN without TLS, which is not used")
	}
	return "LOGIN", nil, nil
}

func (l *login) Next(ask []byte, more bool) ([]byte, error) {
	switch q := strings.ToLower(string(ask)); {
	case !more:
		return nil, nil
	case strings.HasPrefix(q, "user"):
		return []byte(l.user), nil
	case strings.HasPrefix(q, "pass"):
		return []byte(l.password), nil
	}
	return nil, errors.New("asks what LOGIN does not")
}

// text is the message with its headers.
func (s *email) text(m Message) []byte {
	var b bytes.Buffer
	to := make([]string, len(s.to))
	for i, a := range s.to {
		to[i] = a.String()
	}
	_, domain, _ := strings.Cut(s.from.Address, "@")
	for _, h := range [][2]string{
		{"From", s.from.String()}, {"To", strings.Join(to, ", ")}, {"Subject", mime.QEncoding.Encode("utf-8", oneLine(m.Title, maxSaid))},
		{"Date", s.now().Format(time.RFC1123Z)}, {"Message-ID", "<" + identity(m) + "@" + domain + ">"}, {"Auto-Submitted", "auto-generated"},
		{"MIME-Version", "1.0"}, {"Content-Type", "text/plain; charset=utf-8"}, {"Content-Transfer-Encoding", "quoted-printable"},
	} {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	b.WriteString("\r\n")
	q := quotedprintable.NewWriter(&b)
	_, _ = io.WriteString(q, strings.ReplaceAll(m.Title+"\n\n"+m.Text, "\n", "\r\n")) // into memory
	_ = q.Close()
	return b.Bytes()
}
