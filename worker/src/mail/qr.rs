//! A ticket's code as a QR picture. Pure.

use fast_qr::qr::QRCodeError;
use fast_qr::{ECL, QRBuilder};
use png::{BitDepth, ColorType, Compression, Encoder, EncodingError};

/// A picture that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum QrPictureError {
    /// The text is too long for a QR code.
    #[error("QR code: {0}")]
    Code(#[from] QRCodeError),
    /// The picture could not be written.
    #[error("PNG: {0}")]
    Picture(#[from] EncodingError),
}

/// Pixels per module.
const SCALE: usize = 6;
/// The quiet zone that scanners need, in modules (ISO/IEC 18004).
const MARGIN: usize = 4;

/// A text as a QR code: a PNG in black and white.
pub fn picture(text: &str) -> Result<Vec<u8>, QrPictureError> {
    let code = QRBuilder::new(text).ecl(ECL::M).build()?;
    let modules = code.size;
    let side = (modules + 2 * MARGIN) * SCALE;
    let is_dark = |x: usize, y: usize| match (x.checked_sub(MARGIN), y.checked_sub(MARGIN)) {
        (Some(x), Some(y)) if x < modules && y < modules => code[y][x].value(),
        _ => false,
    };
    // One bit a pixel, the first in the highest bit; white is one.
    let line = |y: usize| {
        let mut bytes = vec![0_u8; side.div_ceil(8)];
        for x in (0..side).filter(|x| !is_dark(x / SCALE, y)) {
            bytes[x / 8] |= 0x80 >> (x % 8);
        }
        bytes
    };
    let mut pixels = Vec::new();
    for y in 0..modules + 2 * MARGIN {
        let line = line(y);
        (0..SCALE).for_each(|_| pixels.extend_from_slice(&line));
    }
    let mut file = Vec::new();
    let side = u32::try_from(side).unwrap_or(u32::MAX);
    let mut encoder = Encoder::new(&mut file, side, side);
    encoder.set_color(ColorType::Grayscale);
    encoder.set_depth(BitDepth::One);
    encoder.set_compression(Compression::Fast);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_a_png_of_modules_and_margin() {
        let file = picture("ABCDE-FGHJK-MNPQR-STVWX-YZ012").unwrap();
        let mut decoder = png::Decoder::new(std::io::Cursor::new(file));
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (33 * 6, 33 * 6));
        let pixel = |x: usize, y: usize| pixels[y * info.width as usize + x];
        // The margin is light, the corner of the finder pattern dark.
        assert_eq!((pixel(0, 0), pixel(23, 23), pixel(24, 24)), (255, 255, 0));
    }
}
