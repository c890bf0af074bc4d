// Package page is the live page of a server: one document with its style and its script
// within, that asks for nothing but what is beside it. It shows what GET live answers,
// once a second, which is made by millrace/services/admin/live.
package page

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

//go:embed index.html page.css text.js dom.js view.js main.js
var files embed.FS

// document is the page and the policy that lets nothing else in.
type document struct {
	html   []byte
	policy string
}

var made = sync.OnceValue(func() document {
	style, script := read("page.css"), ""
	for _, name := range []string{"text.js", "dom.js", "view.js", "main.js"} {
		script += read(name)
	}
	script = `"use strict";{` + script + "}"
	html := strings.NewReplacer("<!--style-->", "<style>"+style+"</style>", "<!--script-->", "<script>"+script+"</script>").Replace(read("index.html"))
	return document{[]byte(html), "default-src 'none'; script-src " + hash(script) + "; style-src " + hash(style) +
		"; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}
})

func read(name string) string {
	b, err := files.ReadFile(name)
	if err != nil {
		panic("page: " + name + " is not embedded")
	}
	return string(b)
}

// hash is what a Content-Security-Policy names a text by.
func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// Serve answers with the page. The status is 200; with 401 the page asks its reader for
// the token, as it has nothing of the server in it.
func Serve(w http.ResponseWriter, status int) {
	d, h := made(), w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", d.policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(d.html)))
	w.WriteHeader(status)
	_, _ = w.Write(d.html)
}
