import io.netty.bootstrap.ServerBootstrap;
import io.netty.buffer.ByteBuf;
import io.netty.channel.Channel;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInboundHandlerAdapter;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.ChannelOption;
import io.netty.channel.group.ChannelGroup;
import io.netty.channel.group.DefaultChannelGroup;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.SocketChannel;
import io.netty.channel.socket.nio.NioServerSocketChannel;
import io.netty.handler.codec.LengthFieldBasedFrameDecoder;
import io.netty.util.concurrent.GlobalEventExecutor;
import java.net.InetSocketAddress;

/**
 * Netty with its own frame decoder: answers of one read leave in one flush, a broadcast is a
 * ChannelGroup's.
 */
public final class Netty {
    static final int ECHO = 1 << 16 | 1, CAST = 1 << 16 | 2, HEADER = 8, MAX_FRAME = 16 << 20;

    static final ChannelGroup all = new DefaultChannelGroup(GlobalEventExecutor.INSTANCE, true);

    static final class Connection extends ChannelInboundHandlerAdapter {
        @Override
        public void channelActive(ChannelHandlerContext ctx) {
            all.add(ctx.channel());
        }

        @Override
        public void channelRead(ChannelHandlerContext ctx, Object message) {
            ByteBuf frame = (ByteBuf) message; // with its length
            int handle = frame.readableBytes() < HEADER ? 0 : frame.getInt(4);
            if (handle == ECHO) {
                ctx.write(frame);
            } else if (handle == CAST) {
                all.writeAndFlush(frame);
            } else {
                frame.release();
                ctx.close();
            }
        }

        @Override
        public void channelReadComplete(ChannelHandlerContext ctx) {
            ctx.flush();
        }

        @Override
        public void exceptionCaught(ChannelHandlerContext ctx, Throwable cause) {
            ctx.close();
        }
    }

    public static void main(String[] args) throws InterruptedException {
        String host = "127.0.0.1";
        int port = 0, loops = Runtime.getRuntime().availableProcessors();
        for (int i = 0; i + 1 < args.length; i += 2) {
            if (args[i].equals("-loops")) {
                loops = Integer.parseInt(args[i + 1]);
            } else if (args[i].equals("-addr")) {
                int colon = args[i + 1].lastIndexOf(':');
                host = args[i + 1].substring(0, colon);
                port = Integer.parseInt(args[i + 1].substring(colon + 1));
            }
        }
        Channel server = new ServerBootstrap()
            .group(new NioEventLoopGroup(1), new NioEventLoopGroup(loops))
            .channel(NioServerSocketChannel.class)
            .option(ChannelOption.SO_BACKLOG, 4096)
            .childOption(ChannelOption.TCP_NODELAY, true)
            .childHandler(new ChannelInitializer<SocketChannel>() {
                @Override
                protected void initChannel(SocketChannel ch) {
                    ch.pipeline().addLast(new LengthFieldBasedFrameDecoder(4 + MAX_FRAME, 0, 4), new Connection());
                }
            })
            .bind(host, port).sync().channel();
        System.out.println("ready tcp://" + host + ":" + ((InetSocketAddress) server.localAddress()).getPort());
        server.closeFuture().sync();
    }
}
