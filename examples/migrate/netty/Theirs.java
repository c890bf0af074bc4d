import io.netty.bootstrap.ServerBootstrap;
import io.netty.buffer.ByteBuf;
import io.netty.buffer.Unpooled;
import io.netty.channel.Channel;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.SimpleChannelInboundHandler;
import io.netty.channel.group.ChannelGroup;
import io.netty.channel.group.DefaultChannelGroup;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.SocketChannel;
import io.netty.channel.socket.nio.NioServerSocketChannel;
import io.netty.handler.codec.LengthFieldBasedFrameDecoder;
import io.netty.handler.codec.LengthFieldPrepender;
import io.netty.handler.timeout.ReadTimeoutHandler;
import io.netty.util.AttributeKey;
import io.netty.util.concurrent.DefaultEventExecutorGroup;
import io.netty.util.concurrent.EventExecutorGroup;
import io.netty.util.concurrent.GlobalEventExecutor;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;

/**
 * A room on Netty. A frame is [length u16][type u16][text]: 1 enters under a name, 2 says
 * something, which everybody in the room hears as 3.
 */
public final class Theirs {
    static final EventExecutorGroup blocking = new DefaultEventExecutorGroup(8);
    static final ChannelGroup room = new DefaultChannelGroup(GlobalEventExecutor.INSTANCE);
    static final AttributeKey<String> NAME = AttributeKey.valueOf("name");

    static final class Pipeline extends ChannelInitializer<SocketChannel> {
        @Override
        protected void initChannel(SocketChannel ch) {
            ch.pipeline()
                .addLast(new LengthFieldBasedFrameDecoder(4096 + 2, 0, 2, 0, 2))
                .addLast(new LengthFieldPrepender(2))
                .addLast(new ReadTimeoutHandler(60))
                .addLast(blocking, new Visitor());
        }
    }

    static final class Visitor extends SimpleChannelInboundHandler<ByteBuf> {
        @Override
        protected void channelRead0(ChannelHandlerContext ctx, ByteBuf in) {
            int type = in.readUnsignedShort();
            String text = in.toString(StandardCharsets.UTF_8);
            String name = ctx.channel().attr(NAME).get();
            if (type == 1) {
                ctx.channel().attr(NAME).set(text);
                ctx.writeAndFlush(message(1, "welcome, " + text));
                room.add(ctx.channel());
            } else if (type == 2 && name != null) {
                room.writeAndFlush(message(3, name + ": " + text));
            } else {
                ctx.close();
            }
        }

        @Override
        public void channelWritabilityChanged(ChannelHandlerContext ctx) {
            if (!ctx.channel().isWritable()) {
                ctx.close(); // it does not read
            }
        }

        @Override
        public void exceptionCaught(ChannelHandlerContext ctx, Throwable cause) {
            ctx.close();
        }
    }

    static ByteBuf message(int type, String text) {
        return Unpooled.buffer().writeShort(type).writeBytes(text.getBytes(StandardCharsets.UTF_8));
    }

    public static void main(String[] args) throws InterruptedException {
        NioEventLoopGroup boss = new NioEventLoopGroup(1), loops = new NioEventLoopGroup();
        Channel server = new ServerBootstrap()
            .group(boss, loops)
            .channel(NioServerSocketChannel.class)
            .childHandler(new Pipeline())
            .bind("127.0.0.1", 0).sync().channel();
        System.out.println("ready " + ((InetSocketAddress) server.localAddress()).getPort());
        server.closeFuture().sync();
    }
}
