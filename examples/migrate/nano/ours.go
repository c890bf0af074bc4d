package nano

import (
	"encoding/json"
	"errors"

	"millrace/engine"
	"millrace/services"
)

type Said struct {
	Text string `json:"text"`
}

func rooms(c *services.Controller, srv func() *engine.Server) error {
	join := services.Register(c, services.Handle(1, 1), services.Stages[services.None, Said]{
		Handle: func(ctx *services.Context, _ *services.None, res *Said) error {
			res.Text = "welcome"
			_, err := srv().Group("room").Join(ctx.Session())
			return err
		},
	})
	say := services.Register(c, services.Handle(1, 2), services.Stages[Said, services.None]{
		Handle: func(ctx *services.Context, req *Said, _ *services.None) error {
			body, err := json.Marshal(req)
			if err != nil {
				return err
			}
			_, err = ctx.Session().SendGroup(srv().Group("room"), 1, 3, body)
			return err
		},
	}, services.OneWay())
	return errors.Join(join, say)
}
